"""What is known about the Llamas: every release, its cost, the cards it fits on."""
