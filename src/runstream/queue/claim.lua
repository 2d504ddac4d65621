-- Take due jobs: as arq marks them, in progress for a while, and out of the way of those behind them.
--
-- KEYS: queue. ARGV: now in ms, most jobs, ms until a job that was not finished is due again, arq's prefix of
-- in-progress keys. Answers job id and score in turn.

local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for i = 1, #due, 2 do
  redis.call('ZADD', KEYS[1], ARGV[1] + ARGV[3], due[i])
  redis.call('SET', ARGV[4] .. due[i], '1', 'PX', ARGV[3])
end
return due
