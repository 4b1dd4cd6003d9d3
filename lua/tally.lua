-- tally: add refusals to the history of a client, once.
--
-- KEYS[1]  record   the client's registry record, a hash with the field `created_at_us`, q1:{<client id>}:client
-- KEYS[2]  refused  its refusals of a day, q1:{<client id>}:refused:<days since the epoch>
-- KEYS[3]  mark     what this worker has added for this client last, q1:{<client id>}:tallied:<worker id>
-- ARGV[1]  created_at_us  integer: when the client that was refused was made
-- ARGV[2]  number   integer: this call's, greater than that of every call of this worker before
-- ARGV[3]  keep_s   integer, seconds: how long the day is kept, from its first refusal on
-- ARGV[4]  mark_s   integer, seconds: how long the mark is kept
-- ARGV     pairs: field `<quarter of an hour of the day>:<outcome>`, how many refusals, an integer
--
-- Returns  1 when they were added; 0 when they had been, or there is no such client, and then nothing is written
--
-- State    `refused` is a hash, field -> refusals; the mark is the number of the last call
--
-- Invariants
--   A worker that did not hear the reply asks the same again, and the refusals count once.
--   A client that was deleted is not written to, nor one that was made under its id since.
--
-- Worked call: {'1763999999123456', '7', '34905600', '3600', '53:rate_limited', '12'} -> 1, and 0 the next time.

assert(#KEYS == 3 and #ARGV > 4 and #ARGV % 2 == 0, 'tally: three keys, four numbers, and pairs of field and refusals')
local number = tonumber(ARGV[2])
assert(number and number % 1 == 0, 'tally: number is an integer')

if redis.call('HGET', KEYS[1], 'created_at_us') ~= ARGV[1] then
  return 0
end
if (tonumber(redis.call('GET', KEYS[3]) or '') or 0) >= number then
  return 0
end
redis.call('SET', KEYS[3], ARGV[2], 'EX', ARGV[4])
for index = 5, #ARGV, 2 do
  redis.call('HINCRBY', KEYS[2], ARGV[index], ARGV[index + 1])
end
redis.call('EXPIRE', KEYS[2], ARGV[3], 'NX')
return 1
