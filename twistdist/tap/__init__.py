"""``Options`` and ``makeService`` of the twistd commands."""
