-- Take due jobs, each of the tenant whose turn it is. They go into the queue until they count as lost.
--
-- KEYS: queue, the jobs that this worker has taken. ARGV: most jobs, ms until a job that was not finished is due
-- again, arq's prefix of jobs. Answers id and job in turn; the job is empty where it is not there any more.

local due = redis.call('ZRANGEBYSCORE', QUEUE, '-inf', now, 'WITHSCORES')
for i = 1, #due, 2 do
  redis.call('ZREM', QUEUE, due[i])
  make_due(due[i], tonumber(due[i + 1]))
end
local taken = {}
while #taken < 2 * ARGV[1] do
  local tenant = redis.call('ZRANGE', TURNS, 0, 0)[1]
  if not tenant then break end
  local id = redis.call('ZPOPMIN', due_of(tenant))[1]
  if id then
    redis.call('ZADD', QUEUE, now + ARGV[2], id)
    redis.call('SADD', KEYS[2], id)
    redis.call('SADD', at_work_of(tenant), id)
    redis.call('PEXPIRE', at_work_of(tenant), ARGV[2])
    taken[#taken + 1] = id
    taken[#taken + 1] = redis.call('GET', ARGV[3] .. id) or ''
  end
  take_place(tenant)
end
if #taken > 0 then redis.call('PEXPIRE', KEYS[2], ARGV[2]) end
return taken
