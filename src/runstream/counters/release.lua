-- Give back what was reserved for a run that was not made.
--
-- ARGV: run, user, feature, the epoch and the second of its reservation.

if redis.call('HGET', TENANT, 'epoch') ~= ARGV[4] then return end
local key = window('minute', tonumber(ARGV[5]))
for _, name in ipairs(fields('requests', ARGV[2], ARGV[3])) do
  if redis.call('HINCRBY', key, name, '-1') <= 0 then redis.call('HDEL', key, name) end
end
local kept = redis.call('HGET', OPEN, ARGV[1])
if kept then close(ARGV[1], cjson.decode(kept)) end
