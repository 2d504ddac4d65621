-- Forget jobs that are done.
--
-- KEYS: queue, the jobs that their worker has taken. ARGV: arq's prefix of jobs, then the jobs' ids.

for i = 2, #ARGV do
  redis.call('ZREM', KEYS[1], ARGV[i])
  redis.call('SREM', KEYS[2], ARGV[i])
  redis.call('DEL', ARGV[1] .. ARGV[i])
end
