"""All that knows httpx: requests with credentials, limits, retries and deadlines; bytes in both directions."""
