"""The scripts that the store executes, each as one step, and what they return. No I/O.

A script that changes a run may be executed twice with the same effect. Its writes go by the meta that the
replica has seen: a replica whose run was taken over changes nothing.
"""

from collections.abc import Sequence
from typing import Any

from proxy.replicas.store.records import Keys, StoredMeta
from proxy.replicas.store.valkey import Command, Script

INBOX_TTL_S = 60.0
MAX_INBOX = 10_000
"""Messages that wait for a replica that does not read them; the oldest are dropped first."""

DONE = 1
MISMATCH = 0
"""The log is longer or shorter than the caller thought; with the number of its last entry, and that entry."""

GONE = -1
"""The store has no such run."""

FENCED = -2
"""The run has another meta; with that meta."""

WITHDRAWN = -3
"""The stored request is gone, because the run was cancelled; with the run's meta."""


def result_of(reply: Any) -> tuple[int, int, bytes]:
    """One of the results above, the number of the last entry, and a value."""
    if isinstance(reply, list):
        result, last_seq, value = reply
        return result, last_seq, value
    return reply, 0, b""


CLAIM = Script("""
-- KEYS: run, request, span, join keys...
-- ARGV: ttl, meta, request or '', run id, span or '', its ttl, for each join key an id that may be replaced
local known = redis.call('GET', KEYS[1])
if known and known ~= ARGV[2] then return ARGV[4] end
for i = 4, #KEYS do
  local id = redis.call('GET', KEYS[i])
  if id and id ~= ARGV[4] and id ~= ARGV[3 + i] then return id end
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[1])
if ARGV[3] ~= '' then redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[1]) end
if ARGV[5] ~= '' then redis.call('SET', KEYS[3], ARGV[5], 'PX', ARGV[6]) end
for i = 4, #KEYS do redis.call('SET', KEYS[i], ARGV[4], 'PX', ARGV[1]) end
return false
""")

ENLIST = Script("""
-- A run of a principal has begun.
-- KEYS: ids of its runs by their time; ARGV: ttl, at most so many, time, run id
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[4])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
""")

RESTORE = Script("""
-- As CLAIM, for a run that is in flight already: what other runs have claimed meanwhile stays theirs.
-- KEYS: run, request, join keys...; ARGV: ttl, meta, request or '', run id
local known = redis.call('GET', KEYS[1])
if known and known ~= ARGV[2] then return {-2, 0, known} end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[1])
if ARGV[3] ~= '' then redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[1]) end
for i = 3, #KEYS do redis.call('SET', KEYS[i], ARGV[4], 'NX', 'PX', ARGV[1]) end
return 1
""")

ABANDON = Script("""
-- KEYS: run, request, join keys...; ARGV: meta, run id
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
for i = 3, #KEYS do
  if redis.call('GET', KEYS[i]) == ARGV[2] then redis.call('DEL', KEYS[i]) end
end
return 1
""")

PUT_PART = Script("""
-- KEYS: run, part; ARGV: fence, ttl, value
local known = redis.call('GET', KEYS[1])
if not known then return -1 end
if string.sub(known, 1, #ARGV[1]) ~= ARGV[1] then return {-2, 0, known} end
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[2])
return 1
""")

APPEND = Script("""
-- KEYS: run, log, end, request, join keys that go with the end..., join keys that stay..., parts...
-- ARGV: fence, number of the last entry, ttl, ttl after the end, end or '', request or '', how many join keys
--       go, how many stay, run id, entries...
local known = redis.call('GET', KEYS[1])
if not known then return -1 end
if string.sub(known, 1, #ARGV[1]) ~= ARGV[1] then return {-2, 0, known} end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local at = 0
if last then at = tonumber(string.match(last[1], '^%d+')) end
local after = tonumber(ARGV[2])
if at ~= after then return {0, at, last and last[2][2] or ''} end
for i = 10, #ARGV do
  redis.call('XADD', KEYS[2], string.format('%d-0', after + i - 9), 'e', ARGV[i])
end
-- Not if the request was withdrawn meanwhile: a cancelled run is not to be taken over.
if ARGV[6] ~= '' then redis.call('SET', KEYS[4], ARGV[6], 'XX', 'PX', ARGV[3]) end
if ARGV[5] == '' then
  if after == 0 and #ARGV > 9 then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
  return 1
end
redis.call('SET', KEYS[3], ARGV[5], 'PX', ARGV[4])
redis.call('DEL', KEYS[4])
local going, staying = tonumber(ARGV[7]), tonumber(ARGV[8])
for i = 1, #KEYS do
  if i <= 4 or i > 4 + going + staying then
    redis.call('PEXPIRE', KEYS[i], ARGV[4])
  elseif redis.call('GET', KEYS[i]) == ARGV[9] then
    if i <= 4 + going then redis.call('DEL', KEYS[i]) else redis.call('PEXPIRE', KEYS[i], ARGV[4]) end
  end
end
return 1
""")

KEEP = Script("""
-- A run has ended: of its principal's, the oldest go that are over the share. Join keys stay, so that nothing
-- is asked twice.
-- KEYS: ids of the principal's ended runs by their time, sizes and keys of these
-- ARGV: ttl, most bytes, most runs, run id, size, keys of the run...
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('ZADD', KEYS[1], 'NX', now, ARGV[4]) == 0 then return 0 end
redis.call('HSET', KEYS[2], ARGV[4], ARGV[5] .. ' ' .. table.concat(ARGV, ' ', 6))
local bytes = redis.call('HINCRBY', KEYS[2], 'bytes', ARGV[5])
while true do
  local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  local is_over = bytes > tonumber(ARGV[2]) or redis.call('ZCARD', KEYS[1]) > tonumber(ARGV[3])
  if oldest[1] == ARGV[4] or not (is_over or tonumber(oldest[2]) <= now - tonumber(ARGV[1])) then break end
  local is_size = true
  for word in string.gmatch(redis.call('HGET', KEYS[2], oldest[1]), '%S+') do
    if is_size then bytes = redis.call('HINCRBY', KEYS[2], 'bytes', -tonumber(word))
    else redis.call('DEL', word) end
    is_size = false
  end
  redis.call('ZREM', KEYS[1], oldest[1])
  redis.call('HDEL', KEYS[2], oldest[1])
end
for i = 1, 2 do redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
return 1
""")

TAKE_OVER = Script("""
-- KEYS: run, request, log, join keys...; ARGV: fence, number of the last entry, ttl, meta, request, run id
local known = redis.call('GET', KEYS[1])
if not known then return -1 end
if known ~= ARGV[4] and string.sub(known, 1, #ARGV[1]) ~= ARGV[1] then return {-2, 0, known} end
if redis.call('EXISTS', KEYS[2]) == 0 then return {-3, 0, known} end
local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)[1]
local at = 0
if last then at = tonumber(string.match(last[1], '^%d+')) end
if at ~= tonumber(ARGV[2]) then return {0, at, ''} end
redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[3])
redis.call('SET', KEYS[2], ARGV[5], 'PX', ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[3])
for i = 4, #KEYS do
  if redis.call('GET', KEYS[i]) == ARGV[6] then redis.call('PEXPIRE', KEYS[i], ARGV[3]) end
end
return 1
""")

CANCEL = Script("""
-- KEYS: run, request, inbox of the replica that executes the run; ARGV: fence, ttl, at most so many, message
local known = redis.call('GET', KEYS[1])
if not known then return -1 end
if string.sub(known, 1, #ARGV[1]) ~= ARGV[1] then return {-2, 0, known} end
redis.call('DEL', KEYS[2])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[3], '*', 'e', ARGV[4])
redis.call('PEXPIRE', KEYS[3], ARGV[2])
return 1
""")

REFRESH = Script("""
-- KEYS: join keys..., the other keys of a run...; ARGV: ttl, how many join keys, run id
for i = 1, #KEYS do
  if i > tonumber(ARGV[2]) or redis.call('GET', KEYS[i]) == ARGV[3] then
    redis.call('PEXPIRE', KEYS[i], ARGV[1])
  end
end
return 1
""")

SEND = Script("""
-- KEYS: inbox; ARGV: ttl, at most so many, message
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'e', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
""")

COUNT = Script("""
-- KEYS: a count; one that was not begun stays so
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
return redis.call('INCR', KEYS[1])
""")

PUT_DENYLIST_ENTRY = Script("""
-- KEYS: all entries; ARGV: a name, its value, ttl of all of them, how many there may be
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) and redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
""")

SCRIPTS: Sequence[Script] = (
    CLAIM,
    ENLIST,
    RESTORE,
    ABANDON,
    PUT_PART,
    APPEND,
    KEEP,
    TAKE_OVER,
    CANCEL,
    REFRESH,
    SEND,
    COUNT,
    PUT_DENYLIST_ENTRY,
)


def send(keys: Keys, replica: str, message: bytes) -> Command:
    """The command that sends a message to a replica; an empty message only wakes its reader."""
    return SEND([keys.inbox(replica)], int(INBOX_TTL_S * 1000), MAX_INBOX, message)


def cancel(keys: Keys, run_id: str, stored: StoredMeta, message: bytes) -> Command:
    """The command that sends a message to the replica that executes a run, and withdraws its request."""
    names = [keys.run(run_id), keys.request(run_id), keys.inbox(stored.meta.owner)]
    return CANCEL(names, stored.fence, int(INBOX_TTL_S * 1000), MAX_INBOX, message)
