-- Put a job where arq's workers look for it, and ring. A job that is there already stays as it is, unless it was
-- to be due later: taken by a worker that never began it.
--
-- KEYS: job, queue, doorbell. ARGV: job id, serialized job, its time to live in ms, delay in ms, length of the
-- doorbell. The time is this server's, so that processes need not agree on it.

local time = redis.call('TIME')
local score = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[4]
local due = redis.call('ZSCORE', KEYS[2], ARGV[1])
if due and tonumber(due) <= score and redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('PSETEX', KEYS[1], ARGV[3], ARGV[2])
redis.call('ZADD', KEYS[2], score, ARGV[1])
redis.call('LPUSH', KEYS[3], '1')
redis.call('LTRIM', KEYS[3], 0, tonumber(ARGV[5]) - 1)
return 1
