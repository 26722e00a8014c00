"""How everything here talks to the Hub: politely, verified, remembered by commit."""
