-- Take due jobs: as arq marks them, in progress for a while, and out of the way of those behind them.
--
-- KEYS: queue. ARGV: most jobs, ms until a job that was not finished is due again, arq's prefix of in-progress keys.
-- Answers job id and score in turn. The time is this server's, as it is in enqueue.lua.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES', 'LIMIT', 0, ARGV[1])
for i = 1, #due, 2 do
  redis.call('ZADD', KEYS[1], now + ARGV[2], due[i])
  redis.call('SET', ARGV[3] .. due[i], '1', 'PX', ARGV[2])
end
return due
