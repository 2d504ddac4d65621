-- Put in place what was read from Postgres, and count what was settled meanwhile.
--
-- KEYS[2]: the set of tenants whose spend is counted. ARGV: token, epoch, whether spend is counted, the tenant, seconds
-- until all is to be read again, and as JSON the open runs and the amounts: window, second, field, amount. Answers
-- whether it was done: not where the token is not there any more.

if redis.call('GET', REBUILDING) ~= ARGV[1] then return 0 end
local now = tonumber(redis.call('TIME')[1])
redis.call('DEL', TENANT, OPEN, RESERVED)
for _, kind in ipairs({ 'minute', 'day', 'month' }) do
  redis.call('DEL', (window(kind, now)), (window(kind, now + 60)))
end
local read = cjson.decode(ARGV[6])
for _, amount in ipairs(read.spent) do
  local key, after = window(amount[1], amount[2])
  spend(key, after, { amount[3] }, amount[4])
end
for _, run in ipairs(read.open) do open(run[1], run[2], run[3], run[4], run[5], run[6], now) end
redis.call('HSET', TENANT, 'epoch', ARGV[2], 'spend', ARGV[3])
redis.call('EXPIRE', TENANT, ARGV[5])
if ARGV[3] == '1' then redis.call('SADD', KEYS[2], ARGV[4]) end
for _, kept in ipairs(redis.call('LRANGE', PENDING, 0, -1)) do settle(unpack(cjson.decode(kept))) end
redis.call('DEL', PENDING, REBUILDING)
return 1
