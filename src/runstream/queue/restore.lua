-- Make what lost workers had taken due now, and ring for it.
--
-- KEYS: queue, doorbell, then the jobs that each of the workers has taken. Answers how many jobs there were. The time
-- is this server's, as it is in enqueue.lua.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local restored = 0
for i = 3, #KEYS do
  for _, id in ipairs(redis.call('SMEMBERS', KEYS[i])) do
    restored = restored + redis.call('ZADD', KEYS[1], 'XX', 'CH', now, id)
  end
  redis.call('DEL', KEYS[i])
end
if restored > 0 then redis.call('LPUSH', KEYS[2], '1') end
return restored
