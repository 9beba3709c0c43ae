"""A Flower app: an MLP on the digits, with clients that hold unlike classes."""
