-- Put a job where arq's workers look for it, and ring. A job that is there already stays as it is, unless it was
-- to be due later: taken by a worker that never began it.
--
-- KEYS: job, queue, doorbell. ARGV: job id, serialized job, its time to live in ms, score, length of the doorbell.

local due = redis.call('ZSCORE', KEYS[2], ARGV[1])
if due and tonumber(due) <= tonumber(ARGV[4]) and redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('PSETEX', KEYS[1], ARGV[3], ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1])
redis.call('LPUSH', KEYS[3], '1')
redis.call('LTRIM', KEYS[3], 0, tonumber(ARGV[5]) - 1)
return 1
