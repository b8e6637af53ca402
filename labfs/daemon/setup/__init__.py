"""Setting up: asking a site who we are, finding what is wrong on this machine, and storing credentials."""
