"""Files as their server has them: readers of nodes, what an open file shows, and what is fetched ahead."""
