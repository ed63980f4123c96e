"""What operators do about deliveries that have not ended: the admin API's orders, and the documents they speak in."""
