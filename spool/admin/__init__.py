"""Operators' orders: finding deliveries that have not ended, and deciding what becomes of them."""
