"""What is counted in Redis for all processes, each step of it one script.

book       tenants' limits, reserved and spent: `tenant.lua` goes before `begin`, `forget`, `install`, `release`,
           `reserve` and `settle`
key_turns  providers' keys, and whose turn it is at them: `key.lua` goes before `take_key` and `settle_key`
away       what both raise where Redis does not answer
"""
