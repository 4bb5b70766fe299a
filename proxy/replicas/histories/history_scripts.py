"""The scripts by which the store keeps users' histories, each as one step. No I/O.

Each may be executed twice with the same effect: a batch that is stored twice counts once.
"""

from collections.abc import Sequence

from proxy.replicas.store.valkey import Script

PUT_BATCH = Script("""
-- KEYS: log, sum; ARGV: ttl, at most so many, process, number of its batch, batch
redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[2], '*', 'r', ARGV[3], 'n', ARGV[4], 'e', ARGV[5])
for i = 1, 2 do redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
return 1
""")

PUT_SUM = Script("""
-- The sum of a log up to one of its entries, in place of the one that it was made of.
-- KEYS: sum, log; ARGV: the last entry in the sum that it was made of or '', the last entry in this one, its
--       value, the first entry that stays, ttl, the number of its beginning
if (redis.call('HGET', KEYS[1], 'upto') or '') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'upto', ARGV[2], 'value', ARGV[3], 'restored', ARGV[6])
redis.call('XTRIM', KEYS[2], 'MINID', ARGV[4])
for i = 1, 2 do redis.call('PEXPIRE', KEYS[i], ARGV[5]) end
return 1
""")

HISTORY_SCRIPTS: Sequence[Script] = (PUT_BATCH, PUT_SUM)
