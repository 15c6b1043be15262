"""The optimal learning rate of every batch size, with draws that carry its uncertainty."""
