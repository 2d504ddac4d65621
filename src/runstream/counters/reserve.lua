-- Reserve for a run what it takes, of all its limits or of none; or only look at them.
--
-- ARGV: run (empty: only look), user, feature, tokens, cost, its last attempt that is counted, whether spend is to be
-- counted; then the limits as JSON, each with scope, measure, window (or empty) and most. Answers the outcome (see
-- book.py), the epoch, this server's second, and as one text for each limit: spent, reserved, when its window turns.

local RESERVED_NOW, REFUSED, MISSING = 0, 1, 2
local run, user, feature, tokens, cost, settled, bounded, limits = unpack(ARGV)
local now = tonumber(redis.call('TIME')[1])
local epoch, counted = unpack(redis.call('HMGET', TENANT, 'epoch', 'spend'))
if not epoch or (bounded == '1' and counted ~= '1') then return { MISSING, '0', now, '' } end

local again = bounded == '1' and run ~= '' and redis.call('HGET', OPEN, run)
if again and tonumber(cjson.decode(again)[5]) < tonumber(settled) then -- an end of it was never told here
  redis.call('DEL', TENANT)
  return { MISSING, '0', now, '' }
end

limits = cjson.decode(limits)
local whose = { user = user, tenant = '', feature = feature }
local names, of_window = {}, {}
for place, limit in ipairs(limits) do
  local scope, measure, kind = unpack(limit)
  names[place] = scope .. ':' .. measure .. ':' .. whose[scope]
  if kind ~= '' then
    local of = of_window[kind] or { names = {}, places = {} }
    of_window[kind] = of
    of.names[#of.names + 1], of.places[#of.places + 1] = names[place], place
  end
end
local reserved, spent, turns = redis.call('HMGET', RESERVED, unpack(names)), {}, {}
for kind, of in pairs(of_window) do
  local key, after = window(kind, now)
  local amounts = redis.call('HMGET', key, unpack(of.names))
  for i, place in ipairs(of.places) do spent[place], turns[place] = amounts[i], after end
end

local takes = { requests = 1, runs = 1, tokens = tonumber(tokens), cost = tonumber(cost) }
local outcome, uses = RESERVED_NOW, {}
for place, limit in ipairs(limits) do
  local used, kept = spent[place] or '0', reserved[place] or '0'
  if tonumber(used) + tonumber(kept) + takes[limit[2]] > tonumber(limit[4]) then outcome = REFUSED end
  uses[place] = used .. ' ' .. kept .. ' ' .. (turns[place] or 0)
end
if again or run == '' then outcome = RESERVED_NOW end
local answer = { outcome, epoch, now, table.concat(uses, ' ') }
if outcome == REFUSED or again or run == '' then return answer end

local minute, after = window('minute', now)
spend(minute, after, fields('requests', user, feature), '1')
if bounded == '1' then open(run, user, feature, tokens, cost, settled, now) end
return answer
