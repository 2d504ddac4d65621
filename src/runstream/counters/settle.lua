-- Count what an attempt came to, once, and let go of what was reserved where its run has ended.
--
-- ARGV: run, since, through, tokens, cost, second, whether the run ended. While the counters are read from Postgres
-- nobody knows whether it was read: then it is kept, to be counted once they are there.

if redis.call('EXISTS', REBUILDING) == 1 then
  redis.call('RPUSH', PENDING, cjson.encode(ARGV))
  redis.call('EXPIRE', PENDING, KEEP)
end
if redis.call('HEXISTS', TENANT, 'epoch') == 1 then settle(unpack(ARGV)) end
