"""HTTP over httpx: requests with credentials, limits, retries and deadlines; downloads and uploads."""
