-- Let one process at a time read the counters from Postgres.
--
-- ARGV: its token, ms for which it holds. Answers this server's second; 0 where another process is at it.

if not redis.call('SET', REBUILDING, ARGV[1], 'NX', 'PX', ARGV[2]) then return 0 end
redis.call('DEL', PENDING)
return tonumber(redis.call('TIME')[1])
