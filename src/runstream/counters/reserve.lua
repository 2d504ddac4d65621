-- Reserve for a run what it takes, of all its limits or of none; or only look at them.
--
-- ARGV: run (empty: only look), user, feature, tokens, cost, its last attempt that is counted, whether spend is to be
-- counted; then for each limit: its field, window (or empty), most, what the run takes of it. Answers the outcome (see
-- book.py), the epoch, this server's second, and for each limit: spent, reserved, when its window turns.

local RESERVED_NOW, REFUSED, MISSING = 0, 1, 2
local run, user, feature, tokens, cost, settled, bounded = unpack(ARGV, 1, 7)
local now = tonumber(redis.call('TIME')[1])
local epoch, counted = unpack(redis.call('HMGET', TENANT, 'epoch', 'spend'))
if not epoch or (bounded == '1' and counted ~= '1') then return { MISSING, '0', now } end

local again = bounded == '1' and run ~= '' and redis.call('HGET', OPEN, run)
if again and tonumber(cjson.decode(again)[5]) < tonumber(settled) then -- an end of it was never told here
  redis.call('DEL', TENANT)
  return { MISSING, '0', now }
end

local answer = { RESERVED_NOW, epoch, now }
for i = 8, #ARGV, 4 do
  local spent, turns = false, 0
  if ARGV[i + 1] ~= '' then
    local key
    key, turns = window(ARGV[i + 1], now)
    spent = redis.call('HGET', key, ARGV[i])
  end
  local reserved = redis.call('HGET', RESERVED, ARGV[i])
  if tonumber(spent or 0) + tonumber(reserved or 0) + tonumber(ARGV[i + 3]) > tonumber(ARGV[i + 2]) then
    answer[1] = REFUSED
  end
  answer[#answer + 1] = spent or '0'
  answer[#answer + 1] = reserved or '0'
  answer[#answer + 1] = turns
end
if again or run == '' then answer[1] = RESERVED_NOW end
if answer[1] == REFUSED or again or run == '' then return answer end

spend('minute', now, fields('requests', user, feature), '1')
if bounded == '1' then open(run, user, feature, tokens, cost, settled, now) end
return answer
