"""What screens say, in English and Chinese. Each line is a pair; a topic is a tuple of pairs."""

from typing import Literal

Language = Literal["en", "zh"]
Topic = tuple[tuple[str, str], ...]


def _topic(lines: str) -> Topic:
    pairs = [tuple(part.strip() for part in line.split("|")) for line in lines.strip().splitlines() if line.strip()]
    return tuple((english, chinese) for english, chinese in pairs)


SETTINGS = _topic("""
Wi-Fi|无线网络
Bluetooth|蓝牙
Airplane mode|飞行模式
Mobile data|移动数据
Hotspot|个人热点
Location|位置信息
Dark mode|深色模式
Night light|护眼模式
Do not disturb|勿扰模式
Battery saver|省电模式
Auto rotate|自动旋转
Notifications|通知管理
Sound and vibration|声音与振动
Display|显示与亮度
Wallpaper|壁纸
Storage|存储空间
Security|安全
Privacy|隐私保护
Accounts|账号管理
Language|语言
Accessibility|无障碍
Date and time|日期和时间
About phone|关于手机
System update|系统更新
Screen lock|锁屏密码
Fingerprint|指纹解锁
Backup|备份与恢复
Parental controls|家长控制
Default apps|默认应用
VPN|虚拟专网
NFC|近场通信
Screen cast|投屏
Data usage|流量统计
Gestures|手势操作
Font size|字体大小
Keyboard input|输入法
Smart lock|智能解锁
Auto brightness|自动亮度
Ringtone|来电铃声
Vibration|触感反馈
""")

APPS = _topic("""
Camera|相机
Gallery|相册
Music|音乐
Videos|视频
Browser|浏览器
Maps|地图
Weather|天气
Notes|便签
Calculator|计算器
Clock|时钟
Mail|邮箱
Messages|信息
Phone|电话
Contacts|通讯录
Wallet|钱包
Health|健康
Fitness|运动
Recorder|录音机
Compass|指南针
Translate|翻译
Books|阅读
News|新闻
Podcasts|播客
Games|游戏中心
App store|应用商店
Taxi|打车
Food delivery|外卖
Hotels|酒店
Flights|机票
Trains|火车票
Bank|银行
Stocks|股票
Tickets|电影票
Radio|收音机
Drive|云盘
Meetings|会议
Learning|课堂
Shopping|购物
Second hand|二手市场
Bikes|共享单车
""")

PEOPLE = _topic("""
Alice Moore|王芳
Ben Carter|李伟
Clara Hughes|张敏
Daniel Reed|刘洋
Emma Stone|陈静
Frank Miller|杨帆
Grace Lee|赵磊
Henry Ford|黄丽
Iris Wang|周杰
Jack Brown|吴倩
Karen White|徐强
Leo Martin|孙悦
Mia Lopez|胡军
Noah Clark|朱婷
Olivia King|高翔
Paul Scott|林霞
Quinn Adams|何勇
Rose Bell|郭靖
Sam Turner|马超
Tina Evans|罗兰
Uma Patel|梁辰
Victor Hall|宋佳
Wendy Young|郑爽
Xavier Cole|谢娜
Yara Diaz|韩梅
Zoe Price|唐宁
Mom|妈妈
Dad|爸爸
Landlord|房东
Dr. Green|林医生
""")

CITIES = _topic("""
Beijing|北京
Shanghai|上海
Guangzhou|广州
Shenzhen|深圳
Hangzhou|杭州
Chengdu|成都
Nanjing|南京
Wuhan|武汉
Xiamen|厦门
Qingdao|青岛
Suzhou|苏州
Harbin|哈尔滨
Kunming|昆明
Sanya|三亚
Dalian|大连
London|伦敦
Paris|巴黎
Berlin|柏林
Madrid|马德里
Rome|罗马
Vienna|维也纳
Oslo|奥斯陆
Dublin|都柏林
Boston|波士顿
Chicago|芝加哥
Toronto|多伦多
Sydney|悉尼
Tokyo|东京
Seoul|首尔
Bangkok|曼谷
""")

PLACES = _topic("""
Central Park|中央公园
City Library|市图书馆
North Station|火车北站
Airport Terminal 2|机场二号航站楼
Night Market|夜市
Art Museum|美术馆
Science Museum|科技馆
Old Town|老城区
Harbour Bridge|海港大桥
People's Hospital|人民医院
First School|第一中学
Football Stadium|足球场
Zoo|动物园
Aquarium|海洋馆
Grand Theatre|大剧院
Tea House|茶馆
Book City|书城
Flower Market|花市
West Lake|西湖
Bell Tower|钟楼
Post Office|邮局
Gas Station|加油站
Swimming Pool|游泳馆
Coffee Corner|咖啡角
Noodle Bar|面馆
Bakery|面包房
Pharmacy|药店
Supermarket|超市
Parking Lot|停车场
Bus Stop|公交站
""")

PRODUCTS = _topic("""
Wireless mouse|无线鼠标
Desk lamp|台灯
Water bottle|保温杯
Running shoes|跑步鞋
Rain jacket|雨衣
Backpack|双肩包
Headphones|头戴耳机
Phone case|手机壳
Power bank|充电宝
Mechanical keyboard|机械键盘
Yoga mat|瑜伽垫
Electric kettle|电热水壶
Rice cooker|电饭煲
Umbrella|雨伞
Sunglasses|太阳镜
Wool scarf|羊毛围巾
Leather wallet|真皮钱包
Wall clock|挂钟
Picture frame|相框
Garden hose|花园水管
Tool box|工具箱
Bike helmet|骑行头盔
Camping tent|露营帐篷
Sleeping bag|睡袋
Coffee beans|咖啡豆
Green tea|绿茶
Dog leash|狗绳
Cat toy|猫玩具
Smart watch|智能手表
Air purifier|空气净化器
Hair dryer|吹风机
Face cream|面霜
Toothbrush|牙刷
Office chair|办公椅
Bookshelf|书架
Pillow|枕头
""")

DISHES = _topic("""
Beef noodles|牛肉面
Fried rice|炒饭
Dumplings|饺子
Hot and sour soup|酸辣汤
Roast duck|烤鸭
Steamed fish|清蒸鱼
Spring rolls|春卷
Kung pao chicken|宫保鸡丁
Mapo tofu|麻婆豆腐
Sweet and sour pork|糖醋里脊
Caesar salad|凯撒沙拉
Cheeseburger|芝士汉堡
French fries|薯条
Chicken wings|鸡翅
Margherita pizza|玛格丽特披萨
Tomato soup|番茄汤
Club sandwich|三明治
Apple pie|苹果派
Ice cream|冰淇淋
Cappuccino|卡布奇诺
Latte|拿铁
Black coffee|美式咖啡
Milk tea|奶茶
Orange juice|橙汁
Lemonade|柠檬水
Sparkling water|气泡水
Mango pudding|芒果布丁
Egg tart|蛋挞
Grilled corn|烤玉米
Onion rings|洋葱圈
""")

SUBJECTS = _topic("""
Meeting moved to Friday|会议改到周五
Your order has shipped|您的订单已发货
Invoice for September|九月账单
Photos from the trip|旅行照片
Password was changed|密码已修改
Weekly report|每周报告
Welcome to the team|欢迎加入团队
Flight confirmation|航班确认
Dinner on Saturday|周六晚餐
Library books are due|图书馆催还通知
New comment on your post|有人评论了您
Server maintenance|服务器维护通知
Course starts Monday|课程周一开始
Parking permit renewal|停车证续期
Survey: tell us more|满意度调查
Concert tickets on sale|演唱会门票开售
Lost and found|失物招领
Draft contract|合同草案
Budget for next year|明年预算
Gym membership|健身卡到期提醒
Delivery at the front desk|快递放在前台
Recipe you asked for|你要的菜谱
Interview schedule|面试安排
Holiday calendar|放假安排
Electricity bill|电费通知
School parents' evening|家长会通知
""")

HEADLINES = _topic("""
Rain expected through the weekend|周末持续降雨
New metro line opens today|地铁新线今日开通
Museum shows bronze age finds|博物馆展出青铜器
Local team wins the final|本地球队夺冠
Solar power sets a record|太阳能发电创新高
How to grow tomatoes indoors|阳台番茄种植指南
Old bridge closed for repair|老桥封闭维修
Ten books for long flights|适合长途飞行的书
Robots sort the city's waste|机器人分拣垃圾
Street food festival returns|美食节回归
Students build a tiny satellite|大学生造出小卫星
Ferry timetable changes|轮渡时刻调整
Bees return to the park|蜜蜂重回公园
Chess club looks for members|棋社招新
A quiet village by the sea|海边的安静村庄
Electric buses on every line|公交全面电动化
Marathon route announced|马拉松路线公布
Night sky: meteors in August|八月流星雨
The price of rice is stable|大米价格平稳
Cinema reopens after ten years|老影院重新开放
""")

CHATS = _topic("""
See you at eight|八点见
I am on my way|我在路上了
Can you send the file?|能发一下文件吗
Happy birthday!|生日快乐！
The train is late|火车晚点了
Thanks a lot|多谢
Where are you now?|你现在在哪
Lunch tomorrow?|明天一起吃午饭吗
I will call you back|我等会回你电话
The key is under the mat|钥匙在门垫下面
Good night|晚安
Sounds great|听起来不错
Please bring an umbrella|记得带伞
Who won the game?|谁赢了比赛
It starts at noon|中午开始
No problem at all|没问题
Let me check|我看一下
We need more milk|家里没牛奶了
""")

SONGS = _topic("""
Blue River|蓝色河流
Summer Train|夏天的列车
Paper Moon|纸月亮
City Lights|城市灯火
Wooden Boat|木船
First Snow|初雪
Late Bus Home|末班车
Open Window|敞开的窗
Mountain Echo|山谷回声
Red Kite|红风筝
Lantern Street|灯笼街
Slow Dance|慢舞
Morning Bread|清晨面包
Long Way North|北方路远
Glass Garden|玻璃花园
Empty Stage|空舞台
""")

FILES = _topic("""
Report final.pdf|年终报告.pdf
Budget.xlsx|预算表.xlsx
Holiday plan.docx|旅行计划.docx
Presentation.pptx|产品演示.pptx
Photo 0412.jpg|照片0412.jpg
Contract.pdf|租房合同.pdf
Readme.txt|说明.txt
Backup.zip|备份.zip
Song demo.mp3|歌曲小样.mp3
Lecture 3.mp4|第三讲.mp4
Floor plan.png|户型图.png
Invoice 88.pdf|发票88.pdf
Notes.md|笔记.md
Data export.csv|数据导出.csv
Resume.docx|个人简历.docx
Recipe.txt|菜谱.txt
Logo draft.svg|标志草稿.svg
Meeting minutes.docx|会议纪要.docx
Map scan.tif|地图扫描.tif
Price list.xlsx|价目表.xlsx
""")

FOLDERS = _topic("""
Documents|文档
Downloads|下载
Pictures|图片
Music files|音乐文件
Movies|影片
Desktop|桌面
Projects|项目
Archive|归档
Trash|回收站
Shared|共享文件夹
Recent|最近使用
Favourites|收藏夹
""")

FIELDS = _topic("""
Full name|姓名
Email|电子邮箱
Phone number|手机号码
Address|详细地址
City|城市
Postcode|邮政编码
Company|公司名称
Job title|职位
Birthday|出生日期
Website|个人网站
Remarks|备注
Invoice title|发票抬头
ID number|证件号码
Nickname|昵称
Emergency contact|紧急联系人
Referral code|邀请码
Licence plate|车牌号
Room number|房间号
""")

ACTIONS = _topic("""
Save|保存
Cancel|取消
Delete|删除
Submit|提交
Continue|继续
Confirm|确认
Share|分享
Edit|编辑
Copy|复制
Move|移动
Rename|重命名
Download|下载文件
Print|打印
Retry|重试
Skip|跳过
Done|完成
Apply|应用
Reset|重置
Sign out|退出登录
Learn more|了解更多
Report a problem|反馈问题
Add to favourites|添加收藏
Block|屏蔽
Archive it|归档保存
Remind me later|稍后提醒
Upgrade|升级
Discard|放弃
Replace|替换
Export|导出
Send feedback|发送反馈
""")

QUESTIONS = _topic("""
Delete this item?|删除此项目？
Discard your changes?|放弃修改？
Allow access to photos?|允许访问相册？
Install the update now?|现在安装更新？
Leave this group?|退出该群聊？
Turn off notifications?|关闭通知？
Replace the existing file?|替换已有文件？
Restart the device?|重启设备？
Cancel this order?|取消该订单？
Sign out everywhere?|在所有设备上退出登录？
Save the document?|保存文档？
Share your location?|共享您的位置？
""")

TABS = _topic("""
For you|推荐
Following|关注
Nearby|附近
Trending|热榜
Sports|体育
Finance|财经
Science|科学
Culture|文化
Travel|旅游
Cars|汽车
Technology|科技
Local|本地
World|国际
Style|时尚
""")

SECTIONS = _topic("""
Overview|概览
Orders|订单
Customers|客户
Products|商品
Reports|报表
Invoices|发票
Inventory|库存
Campaigns|营销活动
Support|客服
Integrations|集成
Team|团队
Billing|计费
Audit log|审计日志
Settings|系统设置
Devices|设备
Alerts|告警
""")

CATEGORIES = _topic("""
Popular|热销
Mains|主食
Snacks|小吃
Drinks|饮品
Desserts|甜点
Set meals|套餐
Breakfast|早餐
Vegetarian|素食
Salads|沙拉
Soups|汤类
""")

ALARMS = _topic("""
Wake up|起床
Morning run|晨跑
Take medicine|吃药
Team call|团队电话会
Lunch break|午休
Pick up kids|接孩子
Yoga class|瑜伽课
Water plants|浇花
Feed the cat|喂猫
Bedtime|睡觉
Piano lesson|钢琴课
Call grandma|给奶奶打电话
""")

CHORES = _topic("""
Buy milk|买牛奶
Pay the rent|交房租
Fix the bike|修自行车
Call the bank|给银行打电话
Book a dentist|预约牙医
Wash the car|洗车
Return the parcel|退快递
Renew passport|换护照
Clean the kitchen|打扫厨房
Write the essay|写作文
Plan the party|策划聚会
Order ink|买打印机墨水
Update the website|更新网站
Review the code|代码评审
Test the release|测试新版本
Prepare slides|准备幻灯片
Sort the photos|整理照片
Learn ten words|背十个单词
""")

SERVICES = _topic("""
New account|开户
Cash deposit|现金存款
Lost card|挂失补卡
Loan advice|贷款咨询
Registration|挂号
Pay a bill|缴费
Print a report|打印报告单
Pick up medicine|取药
Check in|办理值机
Luggage|行李托运
Buy a ticket|购票
Collect a ticket|取票
Refund|退票
Change a booking|改签
Information desk|问询处
Exchange money|外币兑换
Residence card|居住证
Passport office|护照办理
""")

ALBUMS = _topic("""
Family|家人
Holiday 2025|2025假期
Screenshots|截屏
Selfies|自拍
Pets|宠物
Food photos|美食
Sunsets|日落
Wedding|婚礼
Hiking|徒步
Concerts|演出
School|学校
Garden|花园
""")

ALL: tuple[Topic, ...] = (
    SETTINGS, APPS, PEOPLE, CITIES, PLACES, PRODUCTS, DISHES, SUBJECTS, HEADLINES, CHATS, SONGS, FILES, FOLDERS, FIELDS,
    ACTIONS, QUESTIONS, TABS, SECTIONS, CATEGORIES, ALARMS, CHORES, SERVICES, ALBUMS,
)  # fmt: skip
"""Every topic, for checks and for drawing arbitrary texts."""


def in_other_language(text: str) -> str | None:
    """What a text of these lists is called in the other language; None for any other text."""
    return _OTHER.get(text)


def _others() -> dict[str, str]:
    found: dict[str, str] = {}
    for english, chinese in (pair for topic in ALL for pair in topic):
        found.setdefault(english, chinese)
        found.setdefault(chinese, english)
    return found


_OTHER = _others()
