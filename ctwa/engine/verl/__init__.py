"""All that touches verl's insides: its platform, engines, workers, rollouts and queue."""
