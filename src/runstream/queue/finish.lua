-- Forget jobs that are done.
--
-- KEYS: queue. ARGV: arq's prefixes of jobs and of in-progress keys, then the jobs' ids.

for i = 3, #ARGV do
  redis.call('ZREM', KEYS[1], ARGV[i])
  redis.call('DEL', ARGV[1] .. ARGV[i], ARGV[2] .. ARGV[i])
end
