-- What the scripts on a tenant's counters share; it comes before each of them.
--
-- KEYS[1] is the tenant's, a hash of its epoch and of whether spend is counted (1) or requests alone (0); without it
-- nothing of the rest counts. All else of the tenant begins with that name: `:open`, of each run that has not ended,
-- `[user, feature, tokens, cost, last attempt settled, second]`; `:reserved`, their sums; a hash for each window, with
-- what was spent in it; `:rebuilding` and `:pending`, while the counters are read from Postgres. Amounts are text all
-- the way, so that none of their digits is lost.

local TENANT = KEYS[1]
local OPEN, RESERVED = TENANT .. ':open', TENANT .. ':reserved'
local REBUILDING, PENDING = TENANT .. ':rebuilding', TENANT .. ':pending'
local DAY = 86400
local KEEP = 3600

-- The first day of the month that a day is in; days are counted from 1970 on.
local function first_of_month(day)
  local of_era = (day + 719468) % 146097
  local years = of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524) - math.floor(of_era / 146096)
  local year = math.floor(years / 365)
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local month = math.floor((5 * of_year + 2) / 153)
  return day - (of_year - math.floor((153 * month + 2) / 5))
end

-- A window's key and the second at which it turns.
local function window(kind, at)
  local first, after
  if kind == 'minute' then
    first = at - at % 60
    after = first + 60
  elseif kind == 'day' then
    first = at - at % DAY
    after = first + DAY
  else
    local day = first_of_month(math.floor(at / DAY))
    first, after = day * DAY, first_of_month(day + 31) * DAY
  end
  return TENANT .. ':' .. kind .. ':' .. string.format('%d', first), after
end

local function fields(measure, user, feature)
  return { 'user:' .. measure .. ':' .. user, 'tenant:' .. measure .. ':', 'feature:' .. measure .. ':' .. feature }
end

-- Count so much more in a window. One that is new begins with the first amount of each name: only then it is told when
-- to expire.
local function spend(key, after, names, amount)
  if amount == '0' then return end
  local sum
  for _, name in ipairs(names) do sum = redis.call('HINCRBY', key, name, amount) end
  if sum == tonumber(amount) then redis.call('EXPIREAT', key, string.format('%d', after + KEEP)) end
end

local function book(sign, measure, user, feature, amount)
  if amount == '0' then return end
  for _, name in ipairs(fields(measure, user, feature)) do
    if redis.call('HINCRBY', RESERVED, name, sign .. amount) == 0 then redis.call('HDEL', RESERVED, name) end
  end
end

local function open(run, user, feature, tokens, cost, settled, now)
  redis.call('HSET', OPEN, run, cjson.encode({ user, feature, tokens, cost, settled, now }))
  book('', 'tokens', user, feature, tokens)
  book('', 'cost', user, feature, cost)
  book('', 'runs', user, feature, '1')
end

local function close(run, record)
  local user, feature, tokens, cost = unpack(record)
  redis.call('HDEL', OPEN, run)
  book('-', 'tokens', user, feature, tokens)
  book('-', 'cost', user, feature, cost)
  book('-', 'runs', user, feature, '1')
end

-- Count what a run's attempts after `since` and up to `through` came to. A run that is not open is counted already.
-- What comes late, after the run was opened again, or twice, is as well. Where an attempt before was not counted, the
-- counters are not to be trusted: then they are to be read anew.
local function settle(run, since, through, tokens, cost, at, ended)
  local kept = redis.call('HGET', OPEN, run)
  if not kept then return end
  local record = cjson.decode(kept)
  local settled = tonumber(record[5])
  if settled > tonumber(since) then return end
  if settled < tonumber(since) then
    redis.call('DEL', TENANT)
    return
  end
  if settled < tonumber(through) then
    local of_tokens, of_cost = fields('tokens', record[1], record[2]), fields('cost', record[1], record[2])
    for _, kind in ipairs({ 'minute', 'day', 'month' }) do
      local key, after = window(kind, tonumber(at))
      spend(key, after, of_tokens, tokens)
      spend(key, after, of_cost, cost)
    end
    record[5] = through
    if ended ~= '1' then redis.call('HSET', OPEN, run, cjson.encode(record)) end
  end
  if ended == '1' then close(run, record) end
end
