-- Give calls their turn at a provider's keys, or have them wait in its line; and tell when to ask again.
--
-- KEYS[1]: the line's name; all else of it begins with that. It is a hash of `turn`, the last number that was given
-- out. `:turns` has the tenants that wait, by the number of their last turn; `:tenant:<tenant>` the calls of one, in the
-- order in which they came; `:calls`, of each call, `[worker, tenant, tokens]`; `:workers`, until when each counts as
-- alive; `:worker:<worker>` its calls.
--
-- ARGV: the time in ms, or empty for this server's; the worker, ms for which it counts as alive from now on, ms after
-- which nothing of the line is kept; requests and tokens a minute for each key (0: not limited); how many keys there
-- are, then their names; how many of the worker's calls go, then their ids; then for each call that comes: id, tenant,
-- tokens, and for how many ms it would wait.
--
-- Answers how many calls of the worker wait; in how many ms there may be room for the next one; the calls that may be
-- made, each as id, number of its key, the second that it is counted in, and its tokens; and those that would wait for
-- longer than they want to, each with its id and the ms.

local LINE, MOST = KEYS[1], 100
local TURNS, CALLS, WORKERS = LINE .. ':turns', LINE .. ':calls', LINE .. ':workers'
local now = tonumber(ARGV[1]) or milliseconds()
local second = math.floor(now / 1000)
local worker, alive, keep = ARGV[2], tonumber(ARGV[3]), ARGV[4]
local requests, tokens = tonumber(ARGV[5]), tonumber(ARGV[6])

local at = 7
local function read_list()
  local list = {}
  for i = at + 1, at + tonumber(ARGV[at]) do list[#list + 1] = ARGV[i] end
  at = at + #list + 1
  return list
end

local function calls_of(tenant) return LINE .. ':tenant:' .. tenant end
local function calls_by(whose) return LINE .. ':worker:' .. whose end

local function next_turn() return redis.call('HINCRBY', LINE, 'turn', 1) end

local function leave(id)
  local kept = redis.call('HGET', CALLS, id)
  if not kept then return end
  local whose, tenant = unpack(cjson.decode(kept))
  redis.call('HDEL', CALLS, id)
  redis.call('SREM', calls_by(whose), id)
  redis.call('ZREM', calls_of(tenant), id)
  if redis.call('EXISTS', calls_of(tenant)) == 0 then redis.call('ZREM', TURNS, tenant) end
end

local function enter(id, tenant, amount)
  redis.call('HSET', CALLS, id, cjson.encode({ worker, tenant, amount }))
  redis.call('SADD', calls_by(worker), id)
  redis.call('ZADD', calls_of(tenant), next_turn(), id)
  redis.call('ZADD', TURNS, 'NX', next_turn(), tenant)
  for _, name in ipairs({ LINE, TURNS, CALLS, calls_of(tenant), calls_by(worker) }) do
    redis.call('PEXPIRE', name, keep)
  end
end

-- The keys, as they are once all calls have been made that have their turn first.

local keys = {}
for number, name in ipairs(read_list()) do
  keys[number] = look(name, second)
  keys[number].number = number
end

local function part_left(key, measure, rate) return rate == 0 and 1 or (rate - key[measure]) / rate end

-- The key with the most room of those that have enough, and the ms until one of them has: as it looks now, and at the
-- least, for tokens that are reserved may be given back at any time.
local function key_for(amount)
  local best, most, soonest, least
  for _, key in ipairs(keys) do
    local first = wait_of(key, 'r', 1, requests, now)
    local wait = math.max(first, wait_of(key, 't', amount, tokens, now))
    local left = math.min(part_left(key, 'r', requests), part_left(key, 't', tokens))
    if wait <= 0 and (not best or left > most) then best, most = key, left end
    soonest, least = math.min(soonest or wait, wait), math.min(least or first, first)
  end
  return best, soonest, least
end

local function spend(key, measure, amount, rate)
  if rate == 0 then return end
  key[measure] = key[measure] + amount
  key['p' .. measure] = paced(key['p' .. measure], amount, rate, now)
end

local function count(key, measure, amount, rate)
  if rate == 0 then return end
  local even = tonumber(redis.call('HGET', key.name, 'p' .. measure) or 0)
  redis.call('HINCRBY', key.name, measure, amount)
  redis.call('HINCRBY', key.name, measure .. second, amount)
  redis.call('HSET', key.name, 'at', second, 'p' .. measure, paced(even, amount, rate, now))
end

local granted, refused, wait = {}, {}, 0

local function refuse(id, least) refused[#refused + 1] = { id, math.ceil(least) } end

local function grant(key, id, amount)
  count(key, 'r', 1, requests)
  count(key, 't', amount, tokens)
  redis.call('PEXPIRE', key.name, KEEP)
  granted[#granted + 1] = { id, key.number, second, amount }
end

-- All that wait, by turns, until there is no room for the next. Others' calls are passed over: their room stays theirs.
local function serve()
  local passed = 0
  local tenants = redis.call('ZRANGE', TURNS, 0, MOST - 1)
  local mine = {}
  for round = 0, MOST do
    local any = false
    for _, tenant in ipairs(tenants) do
      local id = redis.call('ZRANGE', calls_of(tenant), round, round)[1]
      local kept = id and redis.call('HGET', CALLS, id)
      if kept then
        local whose, _, amount = unpack(cjson.decode(kept))
        local key, soonest, least = key_for(amount)
        if not key or passed == MOST then return mine, soonest, least end
        any, passed = true, passed + 1
        spend(key, 'r', 1, requests)
        spend(key, 't', amount, tokens)
        if whose == worker then mine[#mine + 1] = { key, id, amount, tenant } end
      end
    end
    if not any then return mine, 0, 0 end
  end
end

for _, whose in ipairs(redis.call('ZRANGEBYSCORE', WORKERS, '-inf', now)) do
  for _, id in ipairs(redis.call('SMEMBERS', calls_by(whose))) do leave(id) end
  redis.call('ZREM', WORKERS, whose)
end
for _, id in ipairs(read_list()) do leave(id) end

local came = {}
for i = at, #ARGV, 4 do
  local id, tenant, amount, patience = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local key, least, _
  if redis.call('EXISTS', TURNS) == 0 then key, _, least = key_for(amount) end
  if key then
    spend(key, 'r', 1, requests)
    spend(key, 't', amount, tokens)
    grant(key, id, amount)
  elseif least and (least > patience or patience == 0) then
    refuse(id, least)
  else
    if redis.call('HEXISTS', CALLS, id) == 0 then enter(id, tenant, amount) end
    came[#came + 1] = { id, tenant, patience }
  end
end

if redis.call('EXISTS', TURNS) == 1 then
  local mine, soonest, first = serve()
  wait = soonest
  for _, call in ipairs(mine) do
    local key, id, amount, tenant = unpack(call)
    grant(key, id, amount)
    leave(id)
    redis.call('ZADD', TURNS, 'XX', next_turn(), tenant)
  end
  -- How long one waits at the least: by turns, as many of each tenant go first as this one has before it.
  local each = requests == 0 and 0 or SECONDS * 1000 / requests / #keys
  for _, call in ipairs(came) do
    local id, tenant, patience = unpack(call)
    local rank = redis.call('ZRANK', calls_of(tenant), id)
    local least = first
    if rank and first + redis.call('HLEN', CALLS) * each > patience then
      local before = rank
      for _, other in ipairs(redis.call('ZRANGE', TURNS, 0, -1)) do
        if other ~= tenant then before = before + math.min(rank, redis.call('ZCARD', calls_of(other))) end
      end
      least = first + before * each
    end
    if rank and (least > patience or patience == 0) then
      leave(id)
      refuse(id, least)
    end
  end
end

local waiting = redis.call('SCARD', calls_by(worker))
if waiting > 0 then
  redis.call('ZADD', WORKERS, now + alive, worker)
  redis.call('PEXPIRE', WORKERS, keep)
end
return { waiting, math.ceil(wait), granted, refused }
