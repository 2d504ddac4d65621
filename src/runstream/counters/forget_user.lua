-- Forget what a user has spent: of each window that is kept. What is reserved for runs of theirs that go on stays.
--
-- ARGV: the user.

local now = tonumber(redis.call('TIME')[1])
local names = {}
for i, measure in ipairs({ 'requests', 'runs', 'tokens', 'cost' }) do names[i] = 'user:' .. measure .. ':' .. ARGV[1] end
local function drop(kind, at) redis.call('HDEL', (window(kind, at)), unpack(names)) end
for at = now - KEEP - 60, now + 60, 60 do drop('minute', at) end
for _, at in ipairs({ now - KEEP, now + 60 }) do
  drop('day', at)
  drop('month', at)
end
return 1
