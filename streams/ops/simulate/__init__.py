"""``mailsluice simulate``: the policy that runs in production, against models of providers, under a simulated clock."""
