-- Take due jobs: they become due again when they count as lost, and are out of the way of those behind them until then.
--
-- KEYS: queue, the jobs that this worker has taken. ARGV: most jobs, ms until a job that was not finished is due
-- again, arq's prefix of jobs. Answers id and job in turn; the job is empty where it is not there any more. The time
-- is this server's, as it is in enqueue.lua.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local taken = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])) do
  redis.call('ZADD', KEYS[1], now + ARGV[2], id)
  redis.call('SADD', KEYS[2], id)
  taken[#taken + 1] = id
  taken[#taken + 1] = redis.call('GET', ARGV[3] .. id) or ''
end
if #taken > 0 then redis.call('PEXPIRE', KEYS[2], ARGV[2]) end
return taken
