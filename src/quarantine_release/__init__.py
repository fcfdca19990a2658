"""Release false positives from Cloudflare Email Security's quarantine: once, on proof, with a trace.

`webhook`, `worker` and `reconciler` are the entry points of the three Lambda functions, and `wiring` builds what they
need. Each package may import those that stand behind it (tests/test_architecture.py holds the rules):

==============  ============================================  ======================================================
package         what it is for                                may import
==============  ============================================  ======================================================
`domain`        vocabulary and rules                          nothing of ours
`config`        how this deployment is set up                 `domain`
`releasing`     the way of every release                      `domain`
`usecases`      one file per thing that somebody wants        `releasing`, `domain`
`ledger`        the only user of DynamoDB                     `domain`, `releasing.ports`
`cloudflare`    the only caller of Cloudflare                 `domain`, `releasing.ports`, `config`, `telemetry`
`aws`           Secrets Manager and SQS                       as `cloudflare`
`api`           bytes to request, result to JSON              `usecases`, `releasing`, `domain`, `config`, `telemetry`
==============  ============================================  ======================================================
"""
