"""What this agent holds, in the shape of ztunnel's `/config_dump`; pure."""
