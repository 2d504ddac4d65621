-- Have the counters read from Postgres again, unless that was done since.
--
-- ARGV: the epoch that they are of, then runs that are known to have ended, and for each the last attempt that was
-- counted: where any are named, one of them must still be open. Answers whether it was done.

if redis.call('HGET', TENANT, 'epoch') ~= ARGV[1] then return 0 end
local wrong = #ARGV == 1
for i = 2, #ARGV, 2 do
  local kept = redis.call('HGET', OPEN, ARGV[i])
  wrong = wrong or (kept and cjson.decode(kept)[5] == ARGV[i + 1])
end
if not wrong then return 0 end
return redis.call('DEL', TENANT)
