-- Put a job where workers look for it, and ring. A job that is there already stays as it is, unless it was to be due
-- later: taken by a worker that never began it.
--
-- KEYS: queue, job, doorbell. ARGV: job id, serialized job, its time to live in ms, delay in ms, length of the doorbell.

local id, at = ARGV[1], now + ARGV[4]
local waits = redis.call('ZSCORE', due_of(owner(id)), id)
local later = redis.call('ZSCORE', QUEUE, id)
if (waits or later and tonumber(later) <= at) and redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('PSETEX', KEYS[2], ARGV[3], ARGV[2])
if at > now and not waits then
  redis.call('ZADD', QUEUE, at, id)
elseif not waits then
  redis.call('ZREM', QUEUE, id)
  make_due(id, now)
end
redis.call('LPUSH', KEYS[3], '1')
redis.call('LTRIM', KEYS[3], 0, tonumber(ARGV[5]) - 1)
return 1
