-- Make due now what workers had taken and nobody works on, and ring for it.
--
-- KEYS: queue, doorbell, then the jobs that each of the workers has taken. ARGV: the jobs that are worked on. Answers
-- how many there were to be done again.

local worked_on = {}
for _, id in ipairs(ARGV) do worked_on[id] = true end
local restored = 0
for i = 3, #KEYS do
  for _, id in ipairs(redis.call('SMEMBERS', KEYS[i])) do
    if not worked_on[id] then
      redis.call('SREM', KEYS[i], id)
      if redis.call('ZREM', QUEUE, id) == 1 then
        make_due(id, now)
        restored = restored + 1
      end
    end
  end
end
if restored > 0 then redis.call('LPUSH', KEYS[2], '1') end
return restored
