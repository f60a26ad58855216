"""The shipped networks, each written as its module definition."""
