"""The paper's results section again, from stored scores and representations: as published, and as we would defend it."""
