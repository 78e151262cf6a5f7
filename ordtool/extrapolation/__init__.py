"""Train short, test long: what a rotary model does with texts longer than those it was trained on."""
