"""What the labfs processes of many machines share through a Redis or Valkey; README.md tells what, and how much."""
