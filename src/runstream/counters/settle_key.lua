-- Count at a key what a call came to in the place of what was reserved for it.
--
-- KEYS[1]: the key. ARGV: the second that the call is counted in, requests and tokens to be taken back (less than none
-- where it took more), and the requests and tokens a minute. Nothing happens once that second counts no more.

for i, measure in ipairs({ 'r', 't' }) do
  local back, rate, slot = tonumber(ARGV[1 + i]), tonumber(ARGV[3 + i]), measure .. ARGV[1]
  if back ~= 0 and rate ~= 0 and redis.call('HEXISTS', KEYS[1], slot) == 1 then
    local even = tonumber(redis.call('HGET', KEYS[1], 'p' .. measure) or 0)
    redis.call('HINCRBY', KEYS[1], measure, -back)
    redis.call('HINCRBY', KEYS[1], slot, -back)
    redis.call('HSET', KEYS[1], 'p' .. measure, even - back * SECONDS * 1000 / rate)
  end
end
