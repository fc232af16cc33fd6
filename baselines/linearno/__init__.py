"""LinearNO: Transolver's slices as a linear attention."""
