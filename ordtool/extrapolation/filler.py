"""A text of our own to hide facts in, where a person gives none."""

FILLER = """\
The road from the mill to the harbour runs along the river for the first two miles.
In spring the water comes up to the third step, and the boats are tied to the upper rings.
An old man sells fish by the bridge, though few people buy from him before noon.
The school stands on the hill, and its windows face the sea.
Most houses in the lower town were built of the same grey stone.
When the wind turns to the north, the fishermen stay at home and mend their nets.
There is a garden behind the church in which nobody is ever seen to work.
The baker opens at five, and by six the first loaves are gone.
Every second Thursday a market is held on the square before the town hall.
Farmers bring apples in autumn and young geese in the last weeks before the winter.
The railway came late to this part of the country and left it early.
What remains of the station is a clock without hands and a wooden bench.
Children used to say that a bear lived in the tunnel, and some of them believed it.
From the tower one can see the islands when the air is clear.
The largest of them has a lighthouse, two families and a good many sheep.
A letter from the mainland takes three days, or a week when the sea is rough.
The doctor crosses once a month and stays for a night.
She has told us that people over there are seldom ill and never in a hurry.
Our own street is short and ends at a wall with a small green door.
Behind the door lies the yard of the cooper, who makes barrels and sings.
He has a dog that sleeps all day and walks about at night.
The library lends out two books at a time, and three in the summer.
Its oldest book is a list of ships, with the names of their captains.
Someone has drawn a whale beside the entry of a ship that did not come back.
It rained for nine days last March, and the cellar of the inn was full of water.
The innkeeper moved his chairs upstairs and went on as before.
On the tenth day the sun came out, and the whole town hung its washing in the wind.
Nobody could remember so many white sheets on so many lines.
The teacher of music has a piano that was carried over the mountains by four men.
One of the four was her grandfather, and he liked to speak about the snow.
In the evening the lamps along the quay are lit one after the other.
A boy with a long pole does it, and he is never late.
Gulls sit on the roof of the customs house and look down at the passers-by.
The wood of the forest is sold by the cord and dried for two years.
Mushrooms are found under the beeches, but the best places are kept secret.
My aunt knows five of them and has told me about one.
The mill has stood still since the new dam was built.
Its wheel is broken, its roof is sound, and swallows nest in the loft.
A painter lived there for a summer and paid his rent in pictures.
They hang in the kitchen of the owner, who likes the frames best.
Trains, the old people say, made the valley smaller and the days longer.
The bus that came after them made no difference to anybody.
At the crossing stands a stone with the distances to four cities.
Two of the cities have changed their names since it was set up.
The bridge was painted red in one year and green in the next.
Since then the council has not been able to agree on a colour.
On clear nights one hears the buoy in the bay, a mile away.
It sounds like a cow that has lost its way, and strangers ask about it.
"""
