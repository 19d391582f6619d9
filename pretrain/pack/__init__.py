"""Any folder of images as a tile store: what methods pretrain on when there are no slides."""
