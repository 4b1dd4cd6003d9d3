-- retire: take a worker that is not heard any more off the list of those who listen, unless it has been heard since.
--
-- KEYS[1]  listeners  hash, worker id -> the last notice it has heard and a count of its beats, q1:{news}:listeners
-- ARGV[1]  worker     string: its id
-- ARGV[2]  heard      string: what its entry was when the caller began to wait for it
--
-- Returns  1 when it was taken off, 0 when it has been heard since or is not on the list, and then nothing is written
--
-- State    the hash has no TTL; it has one field for each worker that lives or has died lately.
--
-- Invariant: whoever writes its entry while the caller waits stays on the list, so that a worker that may decide on
--            what it remembers is always on it.
--
-- Worked call: {'w_1', '1763999999123-0 17'} -> 1, and 0 the next time.

assert(#KEYS == 1 and #ARGV == 2, 'retire: one key, a worker and its entry')

if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 0
end
return redis.call('HDEL', KEYS[1], ARGV[1])
