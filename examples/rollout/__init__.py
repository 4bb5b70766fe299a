"""A whole rollout in less than a minute: an upstream, its visitors, and what the flag and the policy say."""
