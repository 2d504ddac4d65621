-- Forget jobs that are done.
--
-- KEYS: queue, the jobs that their worker has taken. ARGV: arq's prefix of jobs, then the jobs' ids.

for i = 2, #ARGV do
  local id, tenant = ARGV[i], owner(ARGV[i])
  redis.call('ZREM', QUEUE, id)
  redis.call('SREM', KEYS[2], id)
  redis.call('DEL', ARGV[1] .. id)
  local known = redis.call('SREM', at_work_of(tenant), id) + redis.call('ZREM', due_of(tenant), id)
  if known > 0 then take_place(tenant) end
end
