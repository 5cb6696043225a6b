"""What header blocks of HTTP/2 say of calls: decoded here and dropped at once; trace contexts and status codes are kept."""
