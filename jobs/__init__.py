"""One job: what it is and how it trains. Never opens the queue's database."""
