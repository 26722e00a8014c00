"""Read rows of data: a K-shot, a custom task, documents and every data set of the Hub."""
