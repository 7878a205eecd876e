"""What sources share: archives unpacked within bounds, the model among fetched files, fetches kept in the store."""
